"""What a run found, for people: pages, tables, figures."""
