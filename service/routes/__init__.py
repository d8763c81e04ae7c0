"""The HTTP paths, one module a subject: thin adapters between requests and the framework-free core."""
