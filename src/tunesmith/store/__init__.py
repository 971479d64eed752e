"""Where things live: records in a database, blobs in a folder or a bucket."""
