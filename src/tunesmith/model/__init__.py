"""A base model plus a way to change it: loading, methods, packed attention, export."""
