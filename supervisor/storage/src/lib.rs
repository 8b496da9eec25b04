//! Owned resource: pools, template revisions, volumes and overlays on disk.
