"""Corpora: what is uploaded is checked, made canonical and counted; documents are read one by one."""
