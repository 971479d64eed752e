"""The tables, as they are now. How an older database becomes this: `store/migrations`.

Times are Unix seconds by the clock of whoever wrote them, for people to read: nothing is decided by comparing the
clocks of two machines. What has an order has a number.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# What this database is: its `id`, which a store of blobs is bound to.
settings = Table("settings", metadata, Column("name", String(40), primary_key=True), Column("value", Text))

# Whose jobs and files they are. `served` counts up with each job that is started anywhere: who has the smallest was
# served the longest ago. No limit where it is null.
projects = Table(
    "projects",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("served", BigInteger, nullable=False, default=0),
    Column("most_queued", Integer),
    Column("most_bytes", BigInteger),
)

# Contents that the blob store has, or is about to have; `touched` is when somebody last said that they need it.
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("touched", Float, nullable=False),
)

# Which record needs which content: a file, the inputs of a job, a checkpoint, a model.
uses = Table(
    "uses",
    metadata,
    Column("sha256", String(64), ForeignKey("blobs.sha256"), primary_key=True),
    Column("holder", String(120), primary_key=True),
    Index("ix_uses_holder", "holder"),
)

files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Index("ix_files_project", "project"),
)

# `job` is what runs, `inputs` its files by the path that they get. `token` counts the times that it was claimed: who
# holds an earlier one can commit nothing. `beats` moves as long as its holder lives. `wanted` is what people ask of a
# running job; `fruitless` counts attempts in a row that brought it no further (-1: this one has brought it further).
jobs = Table(
    "jobs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("label", String(100), nullable=False),
    Column("job", JSON, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("details", JSON, nullable=False),
    Column("state", String(12), nullable=False),
    Column("wanted", String(12), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("beats", BigInteger, nullable=False),
    Column("lease", Float, nullable=False),
    Column("worker", String(200)),
    Column("fruitless", Integer, nullable=False),
    Column("most_fruitless", Integer, nullable=False),
    Column("idempotency_key", String(255)),
    Column("request", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("sentence", Text, nullable=False),
    Column("result", JSON),
    UniqueConstraint("project", "idempotency_key"),
    Index("ix_jobs_waiting", "state", "priority", "project", "number"),
    Index("ix_jobs_project", "project", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("token", BigInteger, primary_key=True),
    Column("worker", String(200), nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("outcome", String(20)),
    Column("sentence", Text),
    Column("log", Text),
)

events = Table(
    "events",
    metadata,
    Column("job", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("body", JSON, nullable=False),
)

# `files` of a checkpoint or a model: what its folder holds, as path -> [sha256, bytes].
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("files", JSON, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
)

# What jobs have published: one each, by the constraint.
models = Table(
    "models",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job", String(40), ForeignKey("jobs.id"), nullable=False, unique=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("files", JSON, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Index("ix_models_project", "project"),
)

# Who may use the API: `hash` is SHA-256 of a secret, which is kept nowhere. Requests a minute and bytes of an upload
# are not limited for this key where they are null.
keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("role", String(20), nullable=False),
    Column("start", String(20), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
    Column("revoked", Float),
    Column("per_minute", Integer),
    Column("largest_file", BigInteger),
)

# Browsers that a key has opened the page in; the token is theirs alone.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("key", String(40), ForeignKey("keys.id"), nullable=False),
    Column("expires", Float, nullable=False),
)

# Files that come in parts, and the parts that have come.
uploads = Table(
    "uploads",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", String(40), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("file", String(40)),
)

parts = Table(
    "parts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("upload", String(40), ForeignKey("uploads.id"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Index("ix_parts_upload", "upload"),
)

# Which other projects may ask a tuned model or one of its checkpoints.
permissions = Table(
    "permissions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("model", String(300), nullable=False),
    Column("project", String(100), nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("model", "project"),
)

# Addresses that hear of the ends of a project's jobs. What is sent is signed with `secret`, and with `old_secret` until
# `old_until`.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("types", JSON, nullable=False),
    Column("secret", String(80), nullable=False),
    Column("old_secret", String(80)),
    Column("old_until", Float),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("ix_webhooks_project", "project"),
)

# What an address was, or is to be, told: once for each end of a job, which `token` tells from its other ends. `due` is
# when it is told next; `done` when nothing more is sent, with `sentence` where it was not taken.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("webhook", String(40), ForeignKey("webhooks.id"), nullable=False),
    Column("job", String(40), nullable=False),
    Column("type", String(60), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("done", Float),
    Column("sentence", Text),
    UniqueConstraint("webhook", "job", "type", "token"),
    Index("ix_deliveries_due", "done", "due"),
)

# Who has changed what: one line for each request that changes something, and each key that is made or revoked.
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("request", String(40), nullable=False),
    Column("key", String(40), nullable=False),
    Column("project", String(100), nullable=False),
    Column("action", String(10), nullable=False),
    Column("what", String(300), nullable=False),
    Column("status", Integer, nullable=False),
)

# Chat completions that clients have asked to keep: what was asked and what was answered, as they have it.
completions = Table(
    "completions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(60), nullable=False, unique=True),
    Column("project", String(100), ForeignKey("projects.name"), nullable=False),
    Column("model", String(300), nullable=False),
    Column("created", Float, nullable=False),
    Column("asked", JSON, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Index("ix_completions_project", "project", "number"),
)

# Run folders of the command line, as `tunesmith runs --rebuild` has found them: an index, which can be made again.
runs = Table(
    "runs",
    metadata,
    Column("folder", String(1000), primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("base", Text, nullable=False),
    Column("method", String(40), nullable=False),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("loss", Float),
    Column("scores", JSON, nullable=False),
    Column("dataset", String(80)),
    Column("base_sha256", String(64)),
    Column("parent", JSON),
    Column("changed", Float, nullable=False),
)
