"""How reports look: one style of HTML pages and of plots, for the tools and for the trainer."""
