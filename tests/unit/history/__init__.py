"""Tests of worker/history."""
