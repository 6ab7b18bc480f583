"""The papers that are repeated here, by the name of their config."""

from salflax.report.papers import paper

PAPERS = {name: paper.read(name) for name in ('text_guided', 'loss_study')}
