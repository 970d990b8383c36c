//! Import circles between files: which file names items of which other, and the loops in that graph.
//!
//! An edge leads to the file that defines the item, whichever re-exports lie between. A re-export alone is no edge:
//! a `mod.rs` that passes its children's names on does not depend on them. Test code is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::{self, ModuleId, Tree};

/// A circle: its files, and one use for each edge within it.
pub(crate) struct Circle {
    pub(crate) files: Vec<String>,
    edges: Vec<Edge>,
}

struct Edge {
    from: String,
    line: usize,
    to: String,
    name: String,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circle of {} files: {}", self.files.len(), self.files.join(", "))?;
        for Edge { from, line, to, name } in &self.edges {
            write!(f, "\n    {from}:{line} uses {name} of {to}")?;
        }
        Ok(())
    }
}

/// Uses of a file: the file that is named, with the first line and the name.
type Uses = BTreeMap<String, (usize, String)>;

/// Finds all circles in these crates, the largest first.
pub(crate) fn find(trees: &[Tree]) -> Vec<Circle> {
    let mut graph: BTreeMap<String, Uses> = BTreeMap::new();
    for tree in trees {
        for id in 0..tree.modules.len() {
            let module = &tree.modules[id];
            if module.test {
                continue;
            }
            let mut walk = Walk { tree, module: id, uses: Vec::new() };
            for item in &module.items {
                walk.visit_item(item);
            }
            for import in module.imports.iter().filter(|import| !import.reexport && !import.test) {
                walk.uses.push((import.path.clone(), import.line));
            }
            let from = graph.entry(module.file.clone()).or_default();
            for (path, line) in walk.uses {
                if let Some(file) = tree.defining_file(id, &path)
                    && file != module.file
                {
                    from.entry(file.to_owned()).or_insert((line, path.join("::")));
                }
            }
        }
    }
    let mut circles: Vec<Circle> = components(&graph)
        .into_iter()
        .filter(|files| files.len() > 1)
        .map(|files| {
            let mut edges = Vec::new();
            for from in &files {
                for (to, (line, name)) in &graph[from] {
                    if files.contains(to) {
                        edges.push(Edge {
                            from: from.clone(),
                            line: *line,
                            to: to.clone(),
                            name: name.clone(),
                        });
                    }
                }
            }
            Circle { files, edges }
        })
        .collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.files.len()));
    circles
}

/// Splits the graph into strongly connected components: files that reach each other.
fn components(graph: &BTreeMap<String, Uses>) -> Vec<Vec<String>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|file| (file.as_str(), reachable(graph, file))).collect();
    let mut seen = BTreeSet::new();
    let mut components = Vec::new();
    for file in graph.keys() {
        if !seen.contains(file) {
            let mut members: Vec<String> = reach[file.as_str()]
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file.as_str())))
                .map(|other| (*other).to_owned())
                .collect();
            if members.is_empty() {
                members.push(file.clone());
            }
            seen.extend(members.iter().cloned());
            components.push(members);
        }
    }
    components
}

fn reachable<'a>(graph: &'a BTreeMap<String, Uses>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = vec![from];
    while let Some(file) = next.pop() {
        for to in graph.get(file).into_iter().flat_map(Uses::keys) {
            if reached.insert(to.as_str()) {
                next.push(to);
            }
        }
    }
    reached
}

/// Collects the paths that a module's production code names.
struct Walk<'a> {
    tree: &'a Tree,
    module: ModuleId,
    uses: Vec<(Vec<String>, usize)>,
}

impl Walk<'_> {
    /// Paths within a macro's arguments, which are tokens and no syntax yet.
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

    /// Takes a path out of a macro. A lone word counts where it begins like a type or a constant: others are variables.
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

    /// An import within a function; those of the module are its `imports`.
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
