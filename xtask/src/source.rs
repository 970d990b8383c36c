//! Reads the sources as a tree of modules, each with its file, items and imports; test code is marked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Index of a module in its [`Tree`].
pub(crate) type ModuleId = usize;

/// A module: a file of its own, or a block within one.
pub(crate) struct Module {
    /// Path from the repository's root, with `/`.
    pub(crate) file: String,
    pub(crate) parent: Option<ModuleId>,
    /// True if the module is compiled for tests, fuzzing or loom only.
    pub(crate) test: bool,
    /// True if this module or an ancestor is compiled conditionally (`cfg`).
    pub(crate) cfg: bool,
    pub(crate) items: Vec<syn::Item>,
    pub(crate) children: BTreeMap<String, ModuleId>,
    /// Names that this module's own items define.
    pub(crate) defs: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
}

/// One name that a `use` brings in.
pub(crate) struct Import {
    /// Name in this module; `*` for a glob.
    pub(crate) name: String,
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// True for `pub use` and its narrower forms.
    pub(crate) reexport: bool,
    pub(crate) test: bool,
}

/// All modules of one crate; the root is the first.
pub(crate) struct Tree {
    pub(crate) modules: Vec<Module>,
}

impl Tree {
    /// Reads a crate from its root file.
    pub(crate) fn read(root: &str) -> Result<Self, String> {
        let mut tree = Self { modules: Vec::new() };
        tree.add_file(Path::new(root), None, false, false)?;
        Ok(tree)
    }

    fn add_file(
        &mut self,
        file: &Path,
        parent: Option<ModuleId>,
        test: bool,
        cfg: bool,
    ) -> Result<ModuleId, String> {
        let name = file.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
        let parsed = syn::parse_file(&text)
            .map_err(|error| format!("{name}:{}: {error}", error.span().start().line))?;
        let folder = folder_of_children(file, parent.is_none());
        self.add(name, &folder, parsed.items, parent, test, cfg)
    }

    fn add(
        &mut self,
        file: String,
        folder: &Path,
        mut items: Vec<syn::Item>,
        parent: Option<ModuleId>,
        test: bool,
        cfg: bool,
    ) -> Result<ModuleId, String> {
        let id = self.modules.len();
        let mut imports = Vec::new();
        for item in &items {
            if let syn::Item::Use(item) = item {
                imports.extend(imports_of(item, test));
            }
        }
        let defs = items.iter().filter_map(name_of).collect();
        self.modules.push(Module {
            file: file.clone(),
            parent,
            test,
            cfg,
            items: Vec::new(),
            children: BTreeMap::new(),
            defs,
            imports,
        });
        for item in &mut items {
            let syn::Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let test = test || is_test(&module.attrs);
            let cfg = cfg || has_cfg(&module.attrs);
            let child = match module.content.take() {
                Some((brace, inner)) => {
                    module.content = Some((brace, Vec::new()));
                    self.add(file.clone(), &folder.join(&name), inner, Some(id), test, cfg)?
                }
                None => {
                    let path = match path_attribute(&module.attrs) {
                        Some(path) => normal(&Path::new(&file).parent().unwrap_or(Path::new("")).join(path)),
                        None => file_of(folder, &name),
                    };
                    self.add_file(&path, Some(id), test, cfg)?
                }
            };
            // If `cfg` selects one of two modules with the same name, the first one is used for both.
            self.modules[id].children.entry(name).or_insert(child);
        }
        self.modules[id].items = items;
        Ok(id)
    }

    /// Returns the file that defines the item that `path` names, seen from `module`. `None` stands for an item of
    /// another crate, and for a path that ends at a module.
    pub(crate) fn defining_file(&self, module: ModuleId, path: &[String]) -> Option<&str> {
        match self.resolve(module, path, 0) {
            Found::Item(id) => Some(&self.modules[id].file),
            Found::Module(_) | Found::Nothing => None,
        }
    }

    /// Follows `path` through modules, imports and re-exports. `depth` ends a circle of re-exports.
    fn resolve(&self, module: ModuleId, path: &[String], depth: u32) -> Found {
        if depth > 32 {
            return Found::Nothing;
        }
        let Some((first, rest)) = path.split_first() else { return Found::Module(module) };
        match first.as_str() {
            "crate" => return self.within(0, rest, depth),
            "self" => return self.within(module, rest, depth),
            "super" => {
                let Some(parent) = self.modules[module].parent else { return Found::Nothing };
                // `super::super` is resolved as the parent's `super`.
                return match rest.first().map(String::as_str) {
                    Some("super") => self.resolve(parent, rest, depth + 1),
                    _ => self.within(parent, rest, depth),
                };
            }
            _ => {}
        }
        self.within(module, path, depth)
    }

    /// As [`resolve`](Self::resolve), for a path whose first segment is a name in `module`.
    fn within(&self, module: ModuleId, path: &[String], depth: u32) -> Found {
        let Some((first, rest)) = path.split_first() else { return Found::Module(module) };
        let here = &self.modules[module];
        if let Some(&child) = here.children.get(first) {
            return self.within(child, rest, depth);
        }
        if here.defs.contains(first) {
            return Found::Item(module);
        }
        if depth > 32 {
            return Found::Nothing;
        }
        for import in here.imports.iter().filter(|import| import.name == *first) {
            // An import of its own name is another crate's: `use bytes::Bytes` within a module `bytes`.
            let found = match self.resolve_import(module, import, depth) {
                Found::Module(target) => self.within(target, rest, depth + 1),
                found => found,
            };
            if !matches!(found, Found::Nothing) {
                return found;
            }
        }
        for import in here.imports.iter().filter(|import| import.name == "*") {
            if let Found::Module(target) = self.resolve_import(module, import, depth)
                && target != module
            {
                let found = self.within(target, path, depth + 1);
                if !matches!(found, Found::Nothing) {
                    return found;
                }
            }
        }
        Found::Nothing
    }

    fn resolve_import(&self, module: ModuleId, import: &Import, depth: u32) -> Found {
        let first = import.path.first().map_or("", String::as_str);
        if import.name == first && !matches!(first, "crate" | "self" | "super") {
            return self.modules[module]
                .children
                .get(first)
                .map_or(Found::Nothing, |&child| self.within(child, &import.path[1..], depth + 1));
        }
        self.resolve(module, &import.path, depth + 1)
    }
}

enum Found {
    Item(ModuleId),
    Module(ModuleId),
    Nothing,
}

fn folder_of_children(file: &Path, is_root: bool) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let stem = file.file_stem().unwrap_or_default();
    if is_root || stem == "mod" { folder } else { folder.join(stem) }
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join(format!("{name}.rs"));
    if file.exists() { file } else { folder.join(name).join("mod.rs") }
}

/// Resolves `..` in a path.
fn normal(path: &Path) -> PathBuf {
    let mut parts: Vec<_> = Vec::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.into_iter().collect()
}

fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(meta) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &meta.value else { return None };
        meta.path.is_ident("path").then(|| path.value())
    })
}

/// Lists the names that a `use` brings into its module.
pub(crate) fn imports_of(item: &syn::ItemUse, test: bool) -> Vec<Import> {
    let mut imports = Vec::new();
    let shared = Shared {
        reexport: !matches!(item.vis, syn::Visibility::Inherited),
        test: test || is_test(&item.attrs),
    };
    leaves(&item.tree, &mut Vec::new(), &shared, &mut imports);
    imports
}

/// Properties that all names of one `use` share.
struct Shared {
    reexport: bool,
    test: bool,
}

fn leaves(tree: &syn::UseTree, prefix: &mut Vec<String>, shared: &Shared, imports: &mut Vec<Import>) {
    let mut leaf = |name: String, path: Vec<String>, line: usize| {
        imports.push(Import { name, path, line, reexport: shared.reexport, test: shared.test });
    };
    match tree {
        syn::UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves(&path.tree, prefix, shared, imports);
            prefix.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                leaves(tree, prefix, shared, imports);
            }
        }
        syn::UseTree::Glob(glob) => {
            leaf("*".to_owned(), prefix.clone(), glob.star_token.spans[0].start().line)
        }
        syn::UseTree::Name(name) => {
            let (line, name) = (name.ident.span().start().line, name.ident.to_string());
            let mut path = prefix.clone();
            if name == "self" {
                leaf(path.last().cloned().unwrap_or_default(), path, line);
            } else {
                path.push(name.clone());
                leaf(name, path, line);
            }
        }
        syn::UseTree::Rename(rename) => {
            let mut path = prefix.clone();
            if rename.ident != "self" {
                path.push(rename.ident.to_string());
            }
            leaf(rename.rename.to_string(), path, rename.rename.span().start().line);
        }
    }
}

/// Returns the name that an item defines in its module, or `None` for modules, imports and implementations.
fn name_of(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

pub(crate) fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

pub(crate) fn has_cfg(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg"))
}

/// Returns true if a `cfg` excludes the item from every build but tests, fuzzing and loom's.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| holds(&meta) == Some(false))
    })
}

/// Evaluates a `cfg` for a production build: `None` if that depends on features or the platform.
fn holds(meta: &syn::Meta) -> Option<bool> {
    match meta {
        syn::Meta::Path(path) => {
            ["test", "fuzzing", "loom"].iter().any(|name| path.is_ident(name)).then_some(false)
        }
        syn::Meta::NameValue(_) => None,
        syn::Meta::List(list) => {
            let comma = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            let parts = list.parse_args_with(comma).ok()?;
            let mut parts = parts.iter().map(holds);
            if list.path.is_ident("not") {
                parts.next()?.map(|held| !held)
            } else if list.path.is_ident("all") {
                fold(parts, false)
            } else {
                fold(parts, true)
            }
        }
    }
}

/// Returns `decisive` if one part has that value, its opposite if all parts have the opposite, else `None`.
fn fold(parts: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut outcome = Some(!decisive);
    for part in parts {
        match part {
            Some(held) if held == decisive => return Some(decisive),
            Some(_) => {}
            None => outcome = None,
        }
    }
    outcome
}
