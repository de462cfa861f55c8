"""Filter, sort, paging and cursors of a request."""
