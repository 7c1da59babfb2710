//! man(7), as little of it as the pages need.

/// A page that grows.
pub struct Page(String);

impl Page {
    /// With its title line and its NAME section.
    pub fn new(name: &str, section: u8, about: &str) -> Self {
        let mut page = Self(format!(
            ".\\\" Made from the source by tests/docs: change it there.\n.TH {} {section} \"\" \"Stratavore\" \"Stratavore\"\n.nh\n.ad l\n",
            escape(&name.to_uppercase())
        ));
        page.heading("NAME");
        page.text(&format!("{name} - {about}"));
        page
    }

    pub fn heading(&mut self, title: &str) {
        self.0.push_str(&format!(".SH {}\n", quoted(title)));
    }

    pub fn part(&mut self, title: &str) {
        self.0.push_str(&format!(".SS {}\n", quoted(title)));
    }

    /// A line of its own, in bold.
    pub fn synopsis(&mut self, line: &str) {
        self.0.push_str(&format!(".PP\n.B {}\n", quoted(line)));
    }

    /// Paragraphs, apart by empty lines. Lines that are indented or begin with `- ` stand by themselves.
    pub fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|p| !p.trim().is_empty()) {
            self.0.push_str(".PP\n");
            self.lines(paragraph);
        }
    }

    fn lines(&mut self, paragraph: &str) {
        for line in paragraph.lines() {
            self.0.push_str(&escape(line.trim()));
            self.0.push('\n');
        }
    }

    /// Something and what it means, which may have paragraphs.
    pub fn item(&mut self, what: &str, meaning: &str) {
        self.0.push_str(&format!(".TP\n.B {}\n", quoted(what)));
        for (at, paragraph) in meaning.split("\n\n").enumerate() {
            if at > 0 {
                self.0.push_str(".IP\n");
            }
            self.lines(paragraph);
        }
    }

    /// Items within the last one.
    pub fn list(&mut self, items: &[(String, String)]) {
        if items.is_empty() {
            return;
        }
        self.0.push_str(".RS\n");
        for (what, meaning) in items {
            self.item(what, meaning);
        }
        self.0.push_str(".RE\n");
    }

    /// Text as it is.
    pub fn example(&mut self, text: &str) {
        self.0.push_str(".PP\n.RS 4\n.nf\n");
        for line in text.lines() {
            self.0.push_str(&escape(line));
            self.0.push('\n');
        }
        self.0.push_str(".fi\n.RE\n");
    }

    /// SEE ALSO, and the end.
    pub fn see(mut self, pages: &[(&str, u8)]) -> String {
        self.heading("SEE ALSO");
        for (at, (page, section)) in pages.iter().enumerate() {
            let comma = if at + 1 < pages.len() { " ," } else { "" };
            self.0.push_str(
                &format!(".BR {} ({section}){comma}\n", escape(page)).replace(") ,", "),"),
            );
        }
        self.0
    }
}

/// Text of a line, without anything that roff would take for its own.
fn escape(line: &str) -> String {
    let line = line
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('`', "\\(ga")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti")
        // Where the name of a test may go on in the next line.
        .replace("::", "::\\:");
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}

/// An argument of a request.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text).replace('"', "\\(dq"))
}
