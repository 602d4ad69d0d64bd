"""What is open in this process: channels, their subscribers and the streams written to them. No Flask here."""
