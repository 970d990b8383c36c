//! The import graph of the files: which file names items of which other, and the circles in it.
//!
//! An edge leads to the file that defines the item, also through re-exports. A re-export alone is no edge: a `mod.rs`
//! that passes its children's names on does not depend on them. Test code is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::{self, ModuleId, Tree};

/// Files, each with the files that its production code names.
pub(crate) struct Graph {
    uses: BTreeMap<String, BTreeMap<String, Use>>,
}

/// First place where one file names an item of another.
struct Use {
    line: usize,
    name: String,
}

/// An edge of the [`Graph`].
pub(crate) struct Edge<'a> {
    pub(crate) from: &'a str,
    pub(crate) line: usize,
    pub(crate) to: &'a str,
    /// The item, as the line names it.
    pub(crate) name: &'a str,
}

/// Files that all reach each other, and the edges among them.
pub(crate) struct Circle<'a> {
    files: Vec<&'a str>,
    edges: Vec<Edge<'a>>,
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circle of {} files: {}", self.files.len(), self.files.join(", "))?;
        for Edge { from, line, to, name } in &self.edges {
            write!(f, "\n    {from}:{line} uses {name} of {to}")?;
        }
        Ok(())
    }
}

impl Graph {
    pub(crate) fn of(trees: &[Tree]) -> Self {
        let mut graph = Self { uses: BTreeMap::new() };
        for tree in trees {
            for id in (0..tree.modules.len()).filter(|&id| !tree.modules[id].test) {
                graph.add(tree, id);
            }
        }
        graph
    }

    fn add(&mut self, tree: &Tree, id: ModuleId) {
        let module = &tree.modules[id];
        let mut walk = Walk { tree, module: id, uses: Vec::new() };
        for item in &module.items {
            walk.visit_item(item);
        }
        for import in module.imports.iter().filter(|import| !import.reexport && !import.test) {
            walk.uses.push((import.path.clone(), import.line));
        }
        let uses = self.uses.entry(module.file.clone()).or_default();
        for (path, line) in walk.uses {
            if let Some(file) = tree.defining_file(id, &path)
                && file != module.file
            {
                uses.entry(file.to_owned()).or_insert_with(|| Use { line, name: path.join("::") });
            }
        }
    }

    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge<'_>> {
        self.uses.iter().flat_map(|(from, uses)| {
            uses.iter().map(|(to, Use { line, name })| Edge { from, line: *line, to, name })
        })
    }

    /// Finds all circles, the largest first.
    pub(crate) fn circles(&self) -> Vec<Circle<'_>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.uses.keys().map(|file| (file.as_str(), self.reachable(file))).collect();
        let mut circles = Vec::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (&file, reached) in &reach {
            if seen.contains(file) || !reached.contains(file) {
                continue;
            }
            // The files of a circle: those that `file` reaches and that reach it.
            let files: Vec<&str> = reached
                .iter()
                .copied()
                .filter(|other| reach.get(other).is_some_and(|back| back.contains(file)))
                .collect();
            seen.extend(&files);
            let within = |edge: &Edge<'_>| files.contains(&edge.from) && files.contains(&edge.to);
            circles.push(Circle { edges: self.edges().filter(within).collect(), files });
        }
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.files.len()));
        circles
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = vec![from];
        while let Some(file) = next.pop() {
            for to in self.uses.get(file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to.as_str()) {
                    next.push(to);
                }
            }
        }
        reached
    }
}

/// Collects the paths that a module's production code names.
struct Walk<'a> {
    tree: &'a Tree,
    module: ModuleId,
    uses: Vec<(Vec<String>, usize)>,
}

impl Walk<'_> {
    /// Collects paths within a macro's arguments, which are tokens without syntax.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons < 2 {
                        self.take(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.take(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.take(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.take(&mut path, line);
    }

    /// Records a path of a macro. A lone word counts only if it begins like a type or a constant; others are variables.
    fn take(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        let is_named = path.len() > 1
            || path.first().is_some_and(|name| name.starts_with(|c: char| c.is_ascii_uppercase()));
        if is_named {
            self.uses.push((path, line));
        }
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !source::is_test(source::attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !source::is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !source::is_test(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !source::is_test(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_expr_block(&mut self, block: &'ast syn::ExprBlock) {
        if !source::is_test(&block.attrs) {
            visit::visit_expr_block(self, block);
        }
    }

    /// Records an import within a function; the module's own are in `imports`.
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let own = &self.tree.modules[self.module].imports;
        for import in source::imports_of(item, false) {
            if !own.iter().any(|other| other.line == import.line && other.name == import.name) {
                self.uses.push((import.path, import.line));
            }
        }
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
            self.uses.push((names, line));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a crate's files, and returns the edges and circles of its graph.
    fn graph_of(name: &str, files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let folder = std::env::temp_dir().join(format!("fanwire-xtask-{}-{name}", std::process::id()));
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let root = folder.join("lib.rs");
        let trees = [Tree::read(root.to_str().expect("a path")).expect("it parses")];
        let graph = Graph::of(&trees);
        let short =
            |file: &str| file.strip_prefix(folder.to_str().expect("a path")).expect("of it")[1..].to_owned();
        let edges = graph.edges().map(|edge| format!("{} {}", short(edge.from), short(edge.to))).collect();
        let circles = graph
            .circles()
            .iter()
            .map(|c| c.files.iter().map(|f| short(f)).collect::<Vec<_>>().join(" "))
            .collect();
        let _ = std::fs::remove_dir_all(&folder);
        (edges, circles)
    }

    #[test]
    fn an_edge_leads_through_re_exports_to_the_file_that_defines() {
        let (edges, circles) = graph_of(
            "edges",
            &[
                ("lib.rs", "mod a;\nmod b;\npub use b::Inner;\n"),
                ("a.rs", "use crate::b::{self, Inner as I};\nfn f(_: I) { b::deep::g(); }\n"),
                ("b/mod.rs", "mod inner;\npub mod deep;\npub use inner::Inner;\n"),
                ("b/inner.rs", "pub struct Inner;\n"),
                (
                    "b/deep.rs",
                    "pub fn g() { assert!(super::Inner == x); }\n#[cfg(test)]\nmod tests { use crate::a; fn h() { a::f(); } }\n",
                ),
            ],
        );
        assert_eq!(edges, ["a.rs b/deep.rs", "a.rs b/inner.rs", "b/deep.rs b/inner.rs"]);
        assert!(circles.is_empty(), "{circles:?}");
    }

    #[test]
    fn a_parent_and_its_child_that_name_each_other_are_a_circle() {
        let (_, circles) = graph_of(
            "circles",
            &[
                ("lib.rs", "mod a;\n"),
                ("a/mod.rs", "mod b;\npub struct Kept(b::Made);\npub type Alias = u32;\n"),
                ("a/b.rs", "use super::*;\npub struct Made(Alias);\n"),
            ],
        );
        assert_eq!(circles, ["a/b.rs a/mod.rs"]);
    }
}
