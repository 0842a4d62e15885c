"""Files of adapters: fetched by digest and checked before any engine reads them."""
