//! Measures how readable the code is, and prints each count with its aim: prose, names, circles, widths and lengths.
//!
//! Test code counts for the prose only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use crate::imports::Graph;
use crate::prose;
use crate::run::Outcome;
use crate::source::{self, Tree};

/// Maximum number of fields of a struct. One with more has more than one purpose.
const FIELDS_MAX: usize = 15;

/// Maximum number of lines of a function. A longer one does more than one thing.
const FUNCTION_LINES_MAX: usize = 80;

/// Structs that are flat lists by nature: each field is a counter, a setting, or a key of a documented message.
const FLAT_STRUCTS: &[&str] = &["Metrics", "ServerConfig", "Config", "Claims", "NativeSubscribe"];

/// Prose beside `src/`: folders and documents.
pub(crate) const ELSEWHERE: &[&str] = &[
    "xtask",
    "tests",
    "benches",
    "examples",
    "clients",
    "fuzz",
    "loom-tests",
    "deploy",
    "docs",
    ".github",
    "Cargo.toml",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];

/// Folders of generated or installed files.
const NOT_OURS: &[&str] =
    &["target", "node_modules", "fixtures", "corpus", "artifacts", "__pycache__", "dist"];

/// One count: its name, its value with the aim, and the places that it counts.
struct Count {
    name: &'static str,
    what: String,
    value: String,
    aim: String,
    met: bool,
    places: Vec<String>,
}

/// Prints all counts, or the places of one.
pub(crate) fn report(name: Option<&str>) -> Outcome {
    let counts = counts()?;
    if let Some(name) = name {
        let named: Vec<_> = counts.iter().filter(|count| count.name == name).collect();
        if named.is_empty() {
            let names: BTreeSet<_> = counts.iter().map(|count| count.name).collect();
            let names: Vec<_> = names.into_iter().collect();
            return Err(format!("no such count: {name}; there are {}", names.join(", ")));
        }
        for count in named {
            println!("{}: {} (aim {})", count.what, count.value, count.aim);
            for place in &count.places {
                println!("  {place}");
            }
        }
        return Ok(());
    }
    println!("{:<12} {:<52} {:>8}  aim", "count", "what", "today");
    for Count { name, what, value, aim, met, .. } in &counts {
        println!("{name:<12} {what:<52} {value:>8}  {aim:<6}{}", if *met { "" } else { " <-" });
    }
    println!("\n`cargo xtask house COUNT` lists the places.");
    Ok(())
}

fn counts() -> Result<Vec<Count>, String> {
    let trees = vec![Tree::read("src/lib.rs")?, Tree::read("src/main.rs")?];
    let xtask = Tree::read("xtask/src/main.rs")?;
    let mut counts = Vec::new();
    prose_counts(&mut counts, "src", &["src"])?;
    prose_counts(&mut counts, "elsewhere", ELSEWHERE)?;
    let mut items = Items::default();
    for tree in &trees {
        items.read(tree);
    }
    duplicates(&mut counts, &items);
    let circles: Vec<String> = Graph::of(&trees).circles().iter().map(ToString::to_string).collect();
    counts.push(most("circles", "import circles between files in src/", circles.len(), 0, circles));
    let wide = wide(&trees);
    let what = format!("structs of more than {FIELDS_MAX} fields");
    counts.push(most("wide", &what, wide.len(), 0, wide));
    let mut long = items.functions;
    let mut others = Items::default();
    others.read(&xtask);
    long.extend(others.functions);
    long.retain(|long| long.size > FUNCTION_LINES_MAX);
    let what = format!("functions over {FUNCTION_LINES_MAX} lines in src/ and xtask/");
    counts.push(most("long", &what, long.len(), 3, sized(long, "lines")));
    let root = root_items(&trees[0]);
    counts.push(most("root", "items at the crate's root", root.len(), 25, root));
    Ok(counts)
}

fn most(name: &'static str, what: &str, value: usize, aim: usize, places: Vec<String>) -> Count {
    let (met, value, aim) = (value <= aim, value.to_string(), format!("<= {aim}"));
    Count { name, what: what.to_owned(), value, aim, met, places }
}

/// Lists structs or functions with their sizes, the largest first.
fn sized(mut found: Vec<Sized>, unit: &str) -> Vec<String> {
    found.sort_by_key(|found| std::cmp::Reverse(found.size));
    found.iter().map(|Sized { name, size, place, .. }| format!("{place}: {name}, {size} {unit}")).collect()
}

/// Lists the production structs with more fields than allowed.
pub(crate) fn wide(trees: &[Tree]) -> Vec<String> {
    let mut items = Items::default();
    for tree in trees {
        items.read(tree);
    }
    items.structs.retain(|item| item.size > FIELDS_MAX && !FLAT_STRUCTS.contains(&item.name.as_str()));
    sized(items.structs, "fields")
}

/// Counts sentences without a subject, and pronouns, per 1,000 lines of prose.
fn prose_counts(counts: &mut Vec<Count>, of: &str, places: &[&str]) -> Outcome {
    let (mut lines, mut openers, mut relatives) = (0, Vec::new(), Vec::new());
    for file in files(places) {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.to_string_lossy().replace('\\', "/");
        for paragraph in prose::paragraphs(&name, &text) {
            lines += paragraph.len();
            for opener in prose::openers(&paragraph) {
                openers.push(format!("{name}:{}: {}", opener.line, opener.text));
            }
            for line in paragraph.iter().filter(|line| prose::has_relative(&line.text)) {
                relatives.push(format!("{name}:{}: {}", line.number, line.text));
            }
        }
    }
    let mut add = |name, what: &str, places: Vec<String>, aim: usize| {
        let value = places.len() as f64 * 1000.0 / f64::max(lines as f64, 1.0);
        counts.push(Count {
            name,
            what: format!("{what} per 1,000 of {lines} lines, {of}"),
            value: format!("{value:.1}"),
            aim: format!("<= {aim}"),
            met: value <= aim as f64,
            places,
        });
    };
    add("openers", "openers", openers, 3);
    add("relatives", "who, whom, whose", relatives, 5);
    Ok(())
}

/// Lists the files of these places, in order.
pub(crate) fn files(places: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for place in places {
        let path = Path::new(place);
        if path.is_file() { files.push(path.to_path_buf()) } else { collect(path, &mut files) }
    }
    files.retain(|file| {
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ["rs", "js", "mjs", "ts", "css", "py", "toml", "sh", "yml", "yaml", "md"].contains(&extension)
    });
    files.sort();
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if !path.is_dir() {
            files.push(path);
        } else if !NOT_OURS.iter().any(|other| name == *other) {
            collect(&path, files);
        }
    }
}

/// A struct or a function, with its fields or lines.
struct Sized {
    name: String,
    size: usize,
    place: String,
}

/// A type's definition.
struct Definition {
    file: String,
    line: usize,
    /// True if nothing outside its file can name the type.
    private: bool,
    /// True if the type or its module is compiled conditionally (`cfg`).
    cfg: bool,
}

/// The production items of a crate.
#[derive(Default)]
struct Items {
    types: BTreeMap<String, Vec<Definition>>,
    structs: Vec<Sized>,
    functions: Vec<Sized>,
    file: String,
    cfg: bool,
}

impl Items {
    fn read(&mut self, tree: &Tree) {
        for module in tree.modules.iter().filter(|module| !module.test) {
            self.file.clone_from(&module.file);
            self.cfg = module.cfg;
            for item in &module.items {
                self.visit_item(item);
            }
        }
    }

    fn define(&mut self, name: &syn::Ident, visibility: &syn::Visibility, attributes: &[syn::Attribute]) {
        self.types.entry(name.to_string()).or_default().push(Definition {
            file: self.file.clone(),
            line: name.span().start().line,
            private: matches!(visibility, syn::Visibility::Inherited),
            cfg: self.cfg || source::has_cfg(attributes),
        });
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.fn_token.span.start().line, block.brace_token.span.close().end().line);
        self.functions.push(Sized {
            name: signature.ident.to_string(),
            size: last + 1 - first,
            place: format!("{}:{first}", self.file),
        });
    }
}

impl<'ast> Visit<'ast> for Items {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !source::is_test(source::attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.ident, &item.vis, &item.attrs);
        self.structs.push(Sized {
            name: item.ident.to_string(),
            size: item.fields.iter().filter(|field| !source::is_test(&field.attrs)).count(),
            place: format!("{}:{}", self.file, item.ident.span().start().line),
        });
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(&item.ident, &item.vis, &item.attrs);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(&item.ident, &item.vis, &item.attrs);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(&item.ident, &item.vis, &item.attrs);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.define(&item.ident, &item.vis, &item.attrs);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !source::is_test(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Counts type names with several definitions: those with two visible ones, and those with one at most.
fn duplicates(counts: &mut Vec<Count>, items: &Items) {
    let (mut public, mut private) = (Vec::new(), Vec::new());
    for (name, definitions) in &items.types {
        // Twins by `cfg` in one folder are one definition.
        let mut twins = BTreeSet::new();
        let apart: Vec<_> = definitions
            .iter()
            .filter(|definition| {
                !definition.cfg || twins.insert(definition.file.rsplit_once('/').map(|(folder, _)| folder))
            })
            .collect();
        if apart.len() < 2 {
            continue;
        }
        let places: Vec<_> = apart
            .iter()
            .map(|Definition { file, line, private, .. }| {
                format!("{file}:{line}{}", if *private { " (private)" } else { "" })
            })
            .collect();
        let place = format!("{name}: {}", places.join(", "));
        let visible = apart.iter().filter(|definition| !definition.private).count();
        if visible > 1 { &mut public } else { &mut private }.push(place);
    }
    counts.push(most("duplicates", "type names with two visible definitions", public.len(), 0, public));
    let what = "type names, all but one private to a file";
    counts.push(most("private", what, private.len(), 12, private));
}

/// Lists the items on the first page of `cargo doc`.
fn root_items(tree: &Tree) -> Vec<String> {
    let mut names = Vec::new();
    for item in &tree.modules[0].items {
        let attributes = source::attributes_of(item);
        if source::is_test(attributes) || is_hidden(attributes) {
            continue;
        }
        let public = |visibility: &syn::Visibility| matches!(visibility, syn::Visibility::Public(_));
        match item {
            syn::Item::Use(item) if public(&item.vis) => {
                for import in source::imports_of(item, false) {
                    names.push(format!("src/lib.rs:{}: {}", import.line, import.name));
                }
            }
            syn::Item::Mod(item) if public(&item.vis) => names.push(format!("mod {}", item.ident)),
            syn::Item::Struct(item) if public(&item.vis) => names.push(item.ident.to_string()),
            syn::Item::Enum(item) if public(&item.vis) => names.push(item.ident.to_string()),
            syn::Item::Trait(item) if public(&item.vis) => names.push(item.ident.to_string()),
            syn::Item::Type(item) if public(&item.vis) => names.push(item.ident.to_string()),
            syn::Item::Fn(item) if public(&item.vis) => names.push(item.sig.ident.to_string()),
            syn::Item::Const(item) if public(&item.vis) => names.push(item.ident.to_string()),
            _ => {}
        }
    }
    names
}

fn is_hidden(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("doc")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "hidden")
    })
}
