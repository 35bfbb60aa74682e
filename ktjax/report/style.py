"""The style of report.html: on a screen and on a phone, light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --quiet: #555; --line: #ccc;
  --shade: #f4f4f4; --cue: rgba(0, 0, 0, 0.25); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --quiet: #aaa; --line: #444; --shade: #242424;
    --cue: rgba(255, 255, 255, 0.35); }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: auto; padding: 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.2rem 0 0.6rem; }
p, figcaption { max-width: 46rem; }
/* What is wider than the page scrolls in itself, with a shadow where there is more. */
.wide { overflow-x: auto; margin: 0.6rem 0; background:
  linear-gradient(to right, var(--paper) 30%, transparent) left / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to right, var(--cue), transparent) left / 0.8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--cue), transparent) right / 0.8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: 0.88rem; overflow-wrap: normal; }
th, td { padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
td.word.long { min-width: 9rem; overflow-wrap: anywhere; }
tbody { border-bottom: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number:not(.long) { white-space: nowrap; }
figure { margin: 1.8rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, .note { color: var(--quiet); font-size: 0.9rem; }
details { margin: 0.6rem 0; }
pre { white-space: pre-wrap; font-size: 0.8rem; background: var(--shade); padding: 0.7rem; }
@media (max-width: 640px) {
  table, tbody, tr { display: block; }
  thead { display: none; }
  tr { display: flex; flex-wrap: wrap; column-gap: 1rem; padding: 0.5rem 0;
    border-top: 1px solid var(--line); }
  tbody { border: 0; }
  td, td.word.long { display: block; padding: 0; min-width: 0; text-align: left; }
  td.number:not(.long) { white-space: normal; }
  td.word { flex-basis: 100%; }
  td:first-child { font-weight: 600; }
  td[data-name]::before { content: attr(data-name) " "; color: var(--quiet); }
  td:empty { display: none; }
}
"""
