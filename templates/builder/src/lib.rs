//! Makes template revisions out of recipes.
