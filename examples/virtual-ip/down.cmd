@echo off
rem on_demote: this machine gives the address up. It also runs when `tanist run` starts again after it was killed.
if not defined VIP set VIP=192.168.10.50
if not defined VIP_DEVICE set VIP_DEVICE=Ethernet

rem That it isn't there is no failure.
netsh interface ipv4 delete address name="%VIP_DEVICE%" address=%VIP% store=active >nul 2>nul
echo %TANIST_MEMBER% has given %VIP% up (term %TANIST_TERM%)
