"""Files by ``RemotePath``: staged, verified, published, durable. Knows no users and no wire."""
