// Tables of class "rows": a click on a heading sorts, a field above searches.
(() => {
  "use strict";
  const value = (row, column) => row.cells[column].textContent.trim();

  function sort(table, column, heading) {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const numeric = rows.every((row) => !isNaN(value(row, column)));
    const compare = (a, b) =>
      numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
    rows.sort((one, two) => {
      const [a, b] = [value(one, column), value(two, column)];
      if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1); // what is missing comes last
      return up ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows);
  }

  function search(table, text, told) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const cells = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => cells.includes(word));
      shown += !row.hidden;
    }
    told.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  }

  for (const table of document.querySelectorAll("table.rows")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, column, heading));
      heading.append(button);
    });
    if (table.tBodies[0].rows.length > 12) {
      const line = document.createElement("p");
      const field = document.createElement("input");
      const told = document.createElement("span");
      line.className = "search-rows";
      field.type = "search";
      field.placeholder = "words, all of them in a row";
      field.setAttribute("aria-label", "show the rows with these words");
      told.setAttribute("role", "status");
      field.addEventListener("input", () => search(table, field.value, told));
      line.append(field, told);
      table.parentElement.before(line);
    }
  }
})();
