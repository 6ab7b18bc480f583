"""The papers that are repeated here, by the name of their config."""

from salflax.report.papers import loss_study, text_guided

PAPERS = {p.name: p for p in (text_guided.PAPER, loss_study.PAPER)}
