//! A recipe: what goes into a template, as a person writes it.

use std::{fs, path::Path};

use casemate_vm::VmName;
use serde::Deserialize;

use crate::BuildError;

/// `recipe.toml`. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Suite of the distribution.
    pub suite: String,
    /// Name of the person's account in the VM, uid 1000.
    pub user: String,
    /// Size of the root image in MiB.
    pub size_mib: u32,
    /// Kernel command line.
    pub cmdline: String,
    /// Packages besides the minimal base.
    pub packages: Vec<String>,
    /// Path patterns that dpkg leaves out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// systemd units that never start.
    #[serde(default)]
    pub mask: Vec<String>,
    /// Modules that the initrd loads, dependencies are added.
    pub initrd_modules: Vec<String>,
}

impl Recipe {
    /// Reads `DIR/NAME/recipe.toml`.
    ///
    /// # Errors
    /// When there is no such recipe (the text lists those that exist) or it has an error (with its line).
    pub fn load(recipes: &Path, name: &VmName) -> Result<Self, BuildError> {
        let path = recipes.join(name.as_str()).join("recipe.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BuildError::NoRecipe {
                    name: name.to_string(),
                    known: known(recipes),
                });
            }
            Err(error) => {
                return Err(BuildError::Io {
                    what: format!("cannot read {}", path.display()),
                    source: error,
                });
            }
        };
        toml::from_str(&text).map_err(|error| BuildError::Recipe {
            path,
            what: error.to_string().trim().to_owned(),
        })
    }
}

fn known(recipes: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(recipes)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("recipe.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_recipe_is_valid() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let recipe = Recipe::load(recipes, &"debian-12".parse().unwrap()).unwrap();
        assert_eq!(recipe.user, "user");
        assert!(recipe.packages.iter().any(|package| package == "foot"));
    }

    #[test]
    fn a_missing_recipe_names_those_that_exist() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let error = Recipe::load(recipes, &"debain".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("debian-12"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        fs::write(
            dir.path().join("x/recipe.toml"),
            "suite = \"bookworm\"\npakages = []\n",
        )
        .unwrap();
        let error = Recipe::load(dir.path(), &"x".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("pakages") && error.contains("line 2"),
            "{error}"
        );
    }
}
