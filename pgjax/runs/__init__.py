"""Everything around the pure core that a script needs: settings, run directories, progress, figures.

The core never imports this; experiments and notebooks do.
"""
