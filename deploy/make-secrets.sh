#!/bin/sh
# Prints all secrets of one installation, new, as NAME=value. It needs openssl and nothing else.
#   deploy/make-secrets.sh > .env     for docker compose
set -eu
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
one_line() { base64 | tr -d '\n'; }

# Each service signs with its own Ed25519 key: the last 32 bytes of its PKCS #8 form are the key itself.
for service in tenancy sprites billing audit gateway; do
  openssl genpkey -algorithm ed25519 -outform DER -out "$work/key"
  name=$(echo "$service" | tr a-z A-Z)
  echo "${name}_SIGNING_KEY=$(tail -c 32 "$work/key" | one_line)"
  echo "${name}_PUBLIC_KEY=$(openssl pkey -inform DER -in "$work/key" -pubout -outform DER | tail -c 32 | one_line)"
done
for name in LOGIN_SECRET RUNNER_SECRET POSTGRES_PASSWORD GITHUB_CLIENT_SECRET GITHUB_WEBHOOK_SECRET; do
  echo "$name=$(openssl rand -hex 32)"
done
echo "MASTER_KEY=$(openssl rand -base64 32)"
echo "RECEIPT_KEY=$(openssl rand -base64 32)"

# An operator's key: njo_, 43 characters of randomness, and the first 6 hex digits of the SHA-256 of both.
body="njo_$(openssl rand 32 | base64 | tr -d '\n=' | tr '+/' '-_')"
key="$body$(printf %s "$body" | openssl dgst -sha256 -r | cut -c1-6)"
echo "OPERATOR_KEY=$key"
echo "OPERATOR_KEY_SHA256=$(printf %s "$key" | openssl dgst -sha256 -r | cut -d' ' -f1)"

# The GitHub App's key, PEM in base64 so that it is one line. For a real App: the file that GitHub gave you.
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/app" 2>/dev/null
echo "GITHUB_PRIVATE_KEY=$(one_line < "$work/app")"
echo "GITHUB_PUBLIC_KEY=$(openssl pkey -in "$work/app" -pubout | one_line)"
