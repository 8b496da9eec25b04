//! A report to carry between VMs: one page of PDF with a heading, made here so that no binary file has
//! to lie in the repository.

/// Colour of the bar on the page, which nothing else on the demo's screen has.
pub(super) const BAR: [u8; 3] = [0, 153, 102];

/// The document. Readers find its parts by the byte offsets in its cross-reference table.
pub(super) fn report() -> Vec<u8> {
    let page = "BT /F1 40 Tf 72 740 Td (Quarterly report) Tj 0 -60 Td /F1 18 Tf \
                (This page was opened in a disposable VM.) Tj ET \
                0 0.6 0.4 rg 72 560 450 60 re f";
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{page}\nendstream", page.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    let mut text = "%PDF-1.4\n".to_owned();
    let mut table = "0000000000 65535 f \n".to_owned();
    for (index, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", text.len()));
        text.push_str(&format!("{} 0 obj\n{object}\nendobj\n", index + 1));
    }
    let start = text.len();
    let count = objects.len() + 1;
    text.push_str(&format!(
        "xref\n0 {count}\n{table}trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    ));
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::report;

    #[test]
    fn every_offset_of_the_table_is_that_of_an_object() {
        let text = String::from_utf8(report()).unwrap();
        let table = text.split("xref\n0 6\n").nth(1).unwrap();
        for (number, line) in table.lines().take(6).enumerate().skip(1) {
            assert_eq!(line.len(), 19);
            let offset: usize = line[..10].parse().unwrap();
            assert!(
                text[offset..].starts_with(&format!("{number} 0 obj")),
                "{line}"
            );
        }
    }
}
