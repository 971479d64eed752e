"""How an older database becomes one of today: alembic's versions, run in one transaction when records are opened."""
