"""From a module to what devices run."""
