"""What is known of cards, models, engines and workloads: YAML files, validated on load, each number with its source."""

from bringup.catalog.loader import Catalog, load_catalog

__all__ = ["Catalog", "load_catalog"]
