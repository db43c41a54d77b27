"""Small projects of Alembic and Django, each with a migration that destroys something.

Both begin with `orders` (id, item, cents; 20 rows) and `notes`. Alembic's next revision deletes
every order above 15 and drops `notes`; Django's deletes as many and drops the column `cents`.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ALEMBIC_ENV = """
from alembic import context
from sqlalchemy import create_engine

with create_engine({url!r}).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
_ALEMBIC_FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "one", None

def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("item", sa.Text), sa.Column("cents", sa.Integer))
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))
    for number in range(1, 21):
        op.execute(f"INSERT INTO orders VALUES ({number}, 'item {number}', 100)")
    op.execute("INSERT INTO notes VALUES (1)")
"""
_ALEMBIC_SECOND = """
from alembic import op
revision, down_revision = "two", "one"

def upgrade():
    op.execute("DELETE FROM orders WHERE id > 15")
    op.drop_table("notes")
"""
_DJANGO_SETTINGS = """
SECRET_KEY = "none"
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
DATABASES = {{"default": {database!r}}}
"""
_DJANGO_FIRST = """
from django.db import migrations, models

def fill(apps, schema_editor):
    orders = apps.get_model("shop", "Order").objects
    orders.bulk_create(apps.get_model("shop", "Order")(item=f"item {n}", cents=100)
                       for n in range(1, 21))

class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel("Order", [
            ("id", models.AutoField(primary_key=True)), ("item", models.TextField()),
            ("cents", models.IntegerField())], options={"db_table": "orders"}),
        migrations.RunPython(fill),
    ]
"""
_DJANGO_SECOND = """
from django.db import migrations

def clean(apps, schema_editor):
    apps.get_model("shop", "Order").objects.filter(id__gt=15).delete()

class Migration(migrations.Migration):
    dependencies = [("shop", "0001_first")]
    operations = [migrations.RunPython(clean), migrations.RemoveField("order", "cents")]
"""


def alembic(folder: Path, url: str, revision: str) -> list[str]:
    """Write the project into a folder; return the command that upgrades a database to a revision.

    `url` is SQLAlchemy's.
    """
    place = folder / "alembic"
    (place / "versions").mkdir(parents=True, exist_ok=True)
    (place / "env.py").write_text(_ALEMBIC_ENV.format(url=url))
    (place / "versions" / "one.py").write_text(_ALEMBIC_FIRST)
    (place / "versions" / "two.py").write_text(_ALEMBIC_SECOND)
    ini = folder / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {place}\n")
    return [sys.executable, "-m", "alembic", "-c", str(ini), "upgrade", revision]


def django(folder: Path, database: dict[str, object], migration: str) -> list[str]:
    """Write the project into a folder; return the command that migrates a database up to one.

    `database` is the entry in Django's DATABASES.
    """
    place = folder / "django" / "shop" / "migrations"
    place.mkdir(parents=True, exist_ok=True)
    for package in (place, place.parent):
        (package / "__init__.py").touch()
    (folder / "django" / "site_settings.py").write_text(_DJANGO_SETTINGS.format(database=database))
    (place / "0001_first.py").write_text(_DJANGO_FIRST)
    (place / "0002_second.py").write_text(_DJANGO_SECOND)
    words = ["migrate", "shop", migration, "--settings", "site_settings"]
    paths = ["--pythonpath", str(folder / "django")]
    return [sys.executable, "-m", "django", *words, *paths]
