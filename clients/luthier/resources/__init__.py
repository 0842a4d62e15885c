"""The nouns of `AsyncClient`, one file each. Methods take resource names and return the messages of the contracts.

Everywhere: `timeout_s` replaces the deadline that the contract gives the method (`luthier.options.v1.call`);
`request_id` makes a mutating call idempotent for 24 hours and is filled in if empty; lists are async iterators that
fetch pages as they are read.
"""
