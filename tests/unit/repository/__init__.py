"""What no package holds: documents, deployment files, requirements, names of tests."""
