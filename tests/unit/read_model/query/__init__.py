"""Planner and pages, on a fake of a namespace."""
