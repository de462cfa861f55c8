"""The Faust app: agents, tables, and the way of a batch (decode, fold, judge, project, flush, acknowledge)."""
