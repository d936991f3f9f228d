"""How results reach the PACS: sending, STOW-RS, storage commitment."""
