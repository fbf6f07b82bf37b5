/** Move: drags the image. */

export class HandTool {
  id = "hand";
  name = "Move";
  key = "h";
  hint = "Drag to move the image; Space and drag with any tool. The wheel or two fingers zoom.";
  pans = true;

  down() {
    return false;
  }

  move() {}

  up() {}

  cancel() {}

  leave() {}

  draw() {}
}
