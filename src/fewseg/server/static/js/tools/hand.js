/** Hand: drags the picture. */

export class HandTool {
  id = "hand";
  name = "Move";
  key = "h";
  hint = "Drag to move the picture. Space does the same with any tool; the wheel or two fingers zoom.";
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
