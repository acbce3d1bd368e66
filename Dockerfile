# syntax=docker/dockerfile:1
# All services in one image; what runs is the command. Build: docker build -t nitejar-cloud .
FROM docker.io/library/rust:1.95-slim-bookworm AS base
WORKDIR /src
ENV CARGO_TERM_COLOR=never CARGO_PROFILE_RELEASE_STRIP=true

# What the dependencies are, with nothing of ours in it: as long as no manifest changes, the layer after next is cached.
FROM base AS manifests
COPY . .
RUN find . -name '*.rs' ! -name lib.rs ! -name main.rs ! -name build.rs ! -path '*/src/bin/*' -delete \
    && find . -name '*.rs' | while read -r file; do \
         case "$file" in */lib.rs) : ;; *) echo 'fn main() {}' ;; esac > "$file"; \
       done \
    && mkdir /stubs \
    && find . \( -name Cargo.toml -o -name Cargo.lock -o -name '*.rs' \) -exec cp --parents {} /stubs \;

FROM base AS build
ARG PACKAGES="-p nitejar-tenancy -p nitejar-sprites -p nitejar-billing -p nitejar-audit -p nitejar-gateway -p nitejar-runner -p nitejar-dev"
COPY --from=manifests /stubs ./
RUN cargo build --release --locked $PACKAGES
COPY . .
# Our stubs are newer than our sources: cargo must not believe them.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --release --locked $PACKAGES \
    && mkdir /out \
    && for name in tenancy sprites billing audit gateway runner dev; do cp "target/release/nitejar-$name" /out; done

FROM docker.io/library/debian:bookworm-slim AS service
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/nitejar-tenancy /out/nitejar-sprites /out/nitejar-billing /out/nitejar-audit /out/nitejar-gateway /out/nitejar-runner /usr/local/bin/
# Runs as nobody in particular, with a read-only root.
USER 10001:10001

# Fakes of GitHub and of a mail server, for trying things out; never in production.
FROM service AS sandbox
COPY --from=build /out/nitejar-dev /usr/local/bin/

FROM service
