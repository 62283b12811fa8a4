"""Work that yields to chats: tagging and the index of documents. Jobs live in SQLite and outlive crashes."""
