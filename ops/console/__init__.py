"""The console: one web page and a JSON API that show what the topics show, live and read-only."""
