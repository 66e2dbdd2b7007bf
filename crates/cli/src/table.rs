//! Tables as Go's elastic-tabstop writer lays them out, byte for byte, blanks at line ends included.
//!
//! Spec: cli-and-admin 2. A column is a maximal run of consecutive lines that have a cell at that index which is not the
//! line's last; its width is the widest cell plus the padding. The last cell of a line is in no column.

/// Rows of cells, rendered with a minimum width and a padding.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    padding: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// `padding` blanks behind the widest cell of a column.
    pub(crate) fn new(padding: usize) -> Self {
        Self {
            padding,
            rows: Vec::new(),
        }
    }

    /// Adds a line.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The text, each line ended by a newline.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.format(&mut out, 0, self.rows.len(), &mut Vec::new());
        out
    }

    fn format(&self, out: &mut String, first: usize, last: usize, widths: &mut Vec<usize>) {
        let column = widths.len();
        let mut emitted = first;
        let mut line = first;
        while line < last {
            if column + 1 >= self.rows[line].len() {
                line += 1;
                continue;
            }
            self.emit(out, emitted, line, widths);
            let run = line;
            let mut width = 0;
            while line < last && column + 1 < self.rows[line].len() {
                width = width.max(self.rows[line][column].chars().count() + self.padding);
                line += 1;
            }
            widths.push(width);
            self.format(out, run, line, widths);
            widths.pop();
            emitted = line;
        }
        self.emit(out, emitted, last, widths);
    }

    fn emit(&self, out: &mut String, first: usize, last: usize, widths: &[usize]) {
        for row in &self.rows[first..last] {
            for (index, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if let Some(width) = widths.get(index) {
                    let blanks = width.saturating_sub(cell.chars().count());
                    out.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(padding: usize, rows: &[&[&str]]) -> String {
        let mut table = Table::new(padding);
        for row in rows {
            table.row(row.iter().copied());
        }
        table.render()
    }

    #[test]
    fn the_last_cell_is_never_padded_and_an_empty_one_leaves_blanks() {
        assert_eq!(
            render(5, &[&["NAME", "RULE"], &["a-long-name", ""], &["b", "r.d"]]),
            "NAME            RULE\na-long-name     \nb               r.d\n"
        );
    }

    #[test]
    fn a_shorter_line_ends_the_run_so_that_widths_start_anew() {
        assert_eq!(
            render(1, &[&["aaaa", "b", "c"], &["x"], &["a", "b", "c"]]),
            "aaaa b c\nx\na b c\n"
        );
    }

    #[test]
    fn inner_columns_are_sized_inside_the_run_of_the_outer_one() {
        assert_eq!(
            render(1, &[&["a", "bbbb", "c"], &["a", "b"], &["a", "b", "c"]]),
            "a bbbb c\na b\na b c\n"
        );
    }

    #[test]
    fn width_counts_characters() {
        assert_eq!(render(1, &[&["é", "x"], &["ee", "y"]]), "é  x\nee y\n");
    }
}
