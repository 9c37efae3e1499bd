"""The web pages at /dashboard and the JSON API at /api, imported when somebody first asks for them."""
