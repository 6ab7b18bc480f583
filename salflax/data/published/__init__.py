"""Published data sets: where their files lie.

Each has a function `samples(raw, report, **options)`: raw is its folder, a
pathlib.Path; report, a `problems.Report`, takes what cannot be used. It lists
`raw.Sample`s; see `pairing.Dataset`. ../datasets.toml has the rest.
"""
