"""Text corpora: checking, reading document by document, splitting by content hash."""
