"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const settings = { displaylogo: false, displayModeBar: false };
// Zoom by dragging with a mouse; on a touch screen dragging scrolls the page.
const dragmode = matchMedia("(pointer: fine)").matches ? "zoom" : false;
const fit = new ResizeObserver((entries) => {
  for (const entry of entries) Plotly.Plots.resize(entry.target);
});
// The page's own colours follow the reader's theme by themselves; those in the figures do not.
const dark = matchMedia("(prefers-color-scheme: dark)");
const neutral = {
  "#1d2733": "#e4e9ef", "#ffffff": "#1a2027", "#e8ebef": "#2b333d", "#b5bcc6": "#4a5562",
  "#c5cbd3": "#59636f", "#8b95a3": "#8b95a3",
};
const lighter = (colour) => "#" + [1, 3, 5].map((i) =>
  Math.round(0.6 * parseInt(colour.slice(i, i + 2), 16) + 0.4 * 255).toString(16).padStart(2, "0")).join("");
const themed = (text) => !dark.matches ? text : text.replace(/#[0-9a-f]{6}/g, (colour) => neutral[colour] || lighter(colour));
const samples = [...document.querySelectorAll(".key line")].map((line) => [line, line.getAttribute("stroke")]);
function draw() {
  for (const figure of figures) {
    figure.spec.layout.dragmode = dragmode;
    const spec = JSON.parse(themed(JSON.stringify(figure.spec)));
    Plotly.react(figure.name, spec.data, spec.layout, settings);
  }
  for (const [line, colour] of samples) line.setAttribute("stroke", themed(colour));
}
draw();
dark.addEventListener("change", draw);
for (const figure of figures) fit.observe(document.getElementById(figure.name));
// One legend for all curves: a button per radius shows or hides it everywhere.
for (const button of document.querySelectorAll("button[data-rho]")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const figure of figures) {
      const indices = figure.spec.data.flatMap((trace, index) =>
        trace.meta && trace.meta.rho === button.dataset.rho ? [index] : []);
      for (const index of indices) figure.spec.data[index].visible = shown;
      if (indices.length) Plotly.restyle(figure.name, { visible: shown }, indices);
    }
  });
}
