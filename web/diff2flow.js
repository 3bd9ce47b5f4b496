// Two things that the page does not do by itself.
//
// A node keeps what it said when it ended: how a training ended and where its file is, or why it was refused. The page
// takes progress text away when a run ends, and shows a text among the outputs on nodes of its own only.
//
// The lists of the LoRA loaders have a new LoRA as soon as it is trained, without reloading the page.

import { app } from "../../scripts/app.js";

const NAME = "diff2flow_text";

function textOf(node) {
  const found = node.widgets?.find((widget) => widget.name === NAME);
  if (found) return found;
  const area = document.createElement("textarea");
  area.readOnly = true;
  area.className = "comfy-multiline-input";
  const widget = node.addDOMWidget(NAME, "customtext", area, {
    serialize: false, // not part of what is sent to the server
    hideOnZoom: false,
    getMinHeight: () => 70,
    getMaxHeight: () => 160,
    getValue: () => area.value,
    setValue: (text) => { area.value = text; },
  });
  widget.serialize = false; // nor of the saved graph
  return widget;
}

function show(node, text) {
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
