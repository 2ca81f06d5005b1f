"use strict";
const one = (id) => document.getElementById(id);
const all = (css, within = document) => [...within.querySelectorAll(css)];

// Sorting: a click or Enter on the head of a column; the second one turns it round. Equal rows keep their order.
const value = (cell) => {
  const text = cell.textContent.trim().replaceAll("−", "-").replaceAll(",", "").replace(/^[<>] /, "");
  const number = Number.parseFloat(text);
  return Number.isNaN(number) || !/^[-+]?[\d.]+(e[-\d]+)?( %)?$/.test(text) ? text : number;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b
  : typeof a === "number" ? 1
  : typeof b === "number" ? -1
  : a.localeCompare(b, "en", { numeric: true });
for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
      rows.sort((a, b) => (up ? compare(a[0], b[0]) : compare(b[0], a[0])));
      body.append(...rows.map((pair) => pair[1]));
    });
  });
}

// Copying: the clipboard where the browser allows it, else the old command, else the text is selected for Ctrl+C.
for (const button of all("button.copy")) {
  const source = button.dataset.of ? one(button.dataset.of) : button.previousElementSibling;
  const said = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "copied" : "selected";
    setTimeout(() => { button.textContent = said; }, 1500);
  });
}

// The temperature: moves what the server drew, from the same sums at another temperature.
const slider = one("temperature");
if (slider) {
  const { stops, at, side, bars } = JSON.parse(one("stops").textContent);
  const chart = document.querySelector("svg.reliability");
  const here = document.querySelector("svg.curve .here");
  const percent = (units) => `${(units / 100).toFixed(2)} %`;
  const set = (node, values) => { for (const key in values) node.setAttribute(key, values[key]); };
  const y = (units) => side * (1 - units / 1e4);
  const x = (units) => side * units / 1e4;

  const draw = () => {
    const stop = stops[slider.value];
    const most = Math.max(...stop.bins.map((bin) => (bin ? bin[0] : 0)));
    for (const group of all("g.bin", chart)) {
      const bin = stop.bins[group.dataset.bin];
      set(group, { display: bin ? "inline" : "none" });
      if (!bin) continue;
      const [share, confidence, right, low, high] = bin;
      group.querySelector("title").textContent =
        `${percent(confidence)} claimed, ${percent(right)} right (${percent(low)} to ${percent(high)}), ${percent(share)} of the rows`;
      set(group.querySelector(".gap"), {
        y: y(Math.max(confidence, right)),
        height: x(Math.abs(confidence - right)),
        class: right < confidence ? "gap over" : "gap under",
      });
      set(group.querySelector(".interval"), { x1: x(confidence), x2: x(confidence), y1: y(low), y2: y(high) });
      set(group.querySelector(".point"), { cx: x(confidence), cy: y(right) });
    }
    for (const bar of all("rect.share", chart)) {
      const bin = stop.bins[bar.dataset.bin];
      const height = bin ? bars * bin[0] / most : 0;
      set(bar, { y: bars - height, height });
    }
    chart.querySelector(".most").textContent = stop.most;
    set(here, { x1: at[slider.value], x2: at[slider.value] });
    const reading = [["T", stop.temperature], ["NLL", stop.nll], ["calibration error", stop.ece], ["mean confidence", stop.confidence]];
    one("reading").replaceChildren(...reading.map(([name, text]) => {
      const item = document.createElement("span");
      const strong = document.createElement("b");
      strong.textContent = text;
      item.append(`${name} `, strong);
      return item;
    }));
    slider.setAttribute("aria-valuetext", `temperature ${stop.temperature}, NLL ${stop.nll}`);
    const given = slider.value === slider.dataset.given;
    document.querySelector(".at-given").textContent = given ? said : `At temperature ${stop.temperature}.`;
  };
  const said = document.querySelector(".at-given").textContent;
  const go = (stop) => { slider.value = stop; draw(); };
  slider.addEventListener("input", draw);
  one("to-best").addEventListener("click", () => go(slider.dataset.best));
  one("to-given").addEventListener("click", () => go(slider.dataset.given));
  slider.closest(".slider").hidden = false;
  go(slider.dataset.given);
}
