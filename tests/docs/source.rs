//! Doc comments of the source, for what is documented nowhere else.

/// The members of an enum or struct (given by its first line) with their doc comments.
pub fn documented(file: &str, head: &str) -> Vec<(String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let source = std::fs::read_to_string(path).unwrap();
    let body = source
        .split(&format!("{head}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("{file} has no “{head}”"));
    let body = body.split("\n}").next().unwrap();
    let mut out = Vec::new();
    let mut about: Vec<String> = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            about.push(text.trim().to_owned());
        } else if !line.starts_with("#[") && !line.is_empty() {
            let member = line
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            let name: String = member
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            assert!(!about.is_empty(), "{file}: {name} is not documented");
            out.push((name, plain(&about.join("\n"))));
            about.clear();
        }
    }
    out
}

/// Without the marks of rustdoc.
fn plain(text: &str) -> String {
    text.replace(['`', '[', ']'], "")
}
