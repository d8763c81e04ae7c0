"""The bodies of answers and the parameters of requests: the names of the HTTP contract and no others."""
