"""What a hospital keeps: tables, files and the ledger."""
