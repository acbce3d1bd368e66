"""django-tenants at the same two things: a tenant is made, and a row is read in one.

Arguments: host, port, user, password, an empty database, how many tenants to make. Prints the milliseconds of making one; then
for each line that it is given, that of a read. Medians all.
"""

import pathlib
import statistics
import sys
import tempfile
import time

host, port, user, password, database, count = sys.argv[1:]
home = pathlib.Path(tempfile.mkdtemp())
sys.path.insert(0, str(home))

# Two apps: one is every tenant's directory, the other is what each tenant has, in as many tables as tenancy's.
for app, models in {
    "directory": (
        "from django_tenants.models import TenantMixin, DomainMixin\n"
        "class Client(TenantMixin):\n    auto_create_schema = True\n"
        "class Domain(DomainMixin):\n    pass\n"
    ),
    "work": "from django.db import models\n"
    + "".join(
        f"class Thing{i}(models.Model):\n"
        "    owner = models.CharField(max_length=80, db_index=True)\n"
        "    note = models.TextField()\n"
        for i in range(12)
    ),
}.items():
    (home / app / "migrations").mkdir(parents=True)
    (home / app / "__init__.py").touch()
    (home / app / "migrations" / "__init__.py").touch()
    (home / app / "models.py").write_text(models)

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django_tenants.postgresql_backend",
            "HOST": host,
            "PORT": port,
            "USER": user,
            "PASSWORD": password,
            "NAME": database,
            "CONN_MAX_AGE": None,
        }
    },
    DATABASE_ROUTERS=("django_tenants.routers.TenantSyncRouter",),
    SHARED_APPS=["django_tenants", "django.contrib.contenttypes", "directory"],
    TENANT_APPS=["work"],
    INSTALLED_APPS=["django_tenants", "django.contrib.contenttypes", "directory", "work"],
    TENANT_MODEL="directory.Client",
    TENANT_DOMAIN_MODEL="directory.Domain",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command
from django.db import transaction
from django_tenants.utils import tenant_context

call_command("makemigrations", "directory", "work", verbosity=0)
call_command("migrate_schemas", shared=True, verbosity=0)

from directory.models import Client
from work.models import Thing0

created, tenants = [], []
for i in range(int(count)):
    began = time.perf_counter()
    tenant = Client(schema_name=f"tenant_{i}")
    tenant.save(verbosity=0)
    created.append(time.perf_counter() - began)
    tenants.append(tenant)
    with tenant_context(tenant):
        Thing0.objects.create(owner="a", note="note")
print(statistics.median(created) * 1000, flush=True)

for _ in sys.stdin:
    read = []
    for tenant in tenants:
        # Ten in a row of one tenant, as ours.
        for _ in range(10):
            began = time.perf_counter()
            with tenant_context(tenant), transaction.atomic():
                Thing0.objects.get(pk=1)
            read.append(time.perf_counter() - began)
    print(statistics.median(read) * 1000, flush=True)
