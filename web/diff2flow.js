// Two things that the page does not do by itself.
//
// A node keeps what it said when it ended: how a training ended and where its file is, or why it was refused. Newer
// pages take progress text away when a run ends, and older ones leave its last line, which is taken away here; and a
// text among the outputs is shown on nodes of the page's own only.
//
// The lists of the LoRA loaders have a new LoRA as soon as it is trained, without reloading the page.

import { app } from "../../scripts/app.js";

const NAME = "diff2flow_text", PROGRESS = "$$node-text-preview";
const [LINE, CHARACTER, MARGIN] = [14, 6.1, 40]; // pixels of the page's own text boxes
const [LEAST, MOST] = [70, 240]; // height of a text; a longer one scrolls

function heightOf(text, width) {
  const fit = Math.max(20, Math.floor((width - MARGIN) / CHARACTER));
  const lines = (part) => (part.length <= fit ? 1 : Math.ceil(part.length / fit) + 1); // one more for words that do not break
  const count = text.split("\n").reduce((sum, part) => sum + lines(part), 0);
  return Math.min(MOST, Math.max(LEAST, LINE * (count + 1)));
}

function textOf(node) {
  const found = node.widgets?.find((widget) => widget.name === NAME);
  if (found) return found;
  const area = document.createElement("textarea");
  area.readOnly = true;
  area.className = "comfy-multiline-input";
  const widget = node.addDOMWidget(NAME, "customtext", area, {
    serialize: false, // not part of what is sent to the server
    hideOnZoom: false,
    getMinHeight: () => heightOf(area.value, node.size[0]),
    getMaxHeight: () => MOST,
    getValue: () => area.value,
    setValue: (text) => { area.value = text; },
  });
  widget.serialize = false; // nor of the saved graph
  return widget;
}

function endProgress(node) {
  const widget = node.widgets?.find((each) => each.name === PROGRESS);
  if (widget) node.removeWidget?.(widget);
}

function show(node, text) {
  endProgress(node);
  textOf(node).value = text;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "diff2flowkit.text",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!/^D2F[A-Z]/.test(nodeData.name)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output, ...others) {
      executed?.call(this, output, ...others);
      if (output?.text?.length) show(this, output.text.join("\n"));
      if (output?.loras?.length) app.refreshComboInNodes?.()?.catch?.(() => {});
    };
  },
});
