"""The query language: filters, sorts, paging and cursors."""
