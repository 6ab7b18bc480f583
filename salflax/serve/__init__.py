"""The page and the JSON API of `salflax serve`."""
